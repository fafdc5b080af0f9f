mod functional;
